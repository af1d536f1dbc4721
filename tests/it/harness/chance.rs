//! Chance that can be repeated: its seed is printed, and taken from `POSTRIDER_SEED` where that is set.

use std::time::Duration;

/// A sequence of random numbers (splitmix64, <https://prng.di.unimi.it/splitmix64.c>).
pub struct Chance(u64);

impl Chance {
    /// With a fresh seed, or the environment's.
    pub fn new() -> Self {
        let given = std::env::var("POSTRIDER_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(u32::from_be_bytes(postrider::secret::random::<4>())));
        println!("seed {seed} (POSTRIDER_SEED={seed} repeats it)");
        Self(seed)
    }

    /// Another sequence that depends on this one.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// A time of so many milliseconds at most.
    pub fn at_most_ms(&mut self, ms: u64) -> Duration {
        Duration::from_micros(self.next() % (ms * 1000 + 1))
    }
}
