//! The targets of `tests/fuzz` on their seeds and on some thousand mutations of them, the same ones each time.

use crate::fuzz_targets;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Mutations of a target in an ordinary run: about a second. `FUZZ_MUTATIONS` asks for more.
const MUTATIONS: u32 = 4000;
/// Longest input, in bytes: long enough to go over the limits of words and errors.
const BYTES_MAX: usize = 16 * 1024;
/// What is likely to hit something.
const TOKENS: [&str; 14] = [
    "\"",
    "\\",
    "{",
    "}",
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "\\u0000",
    "\\u001b[31m",
    "\u{1b}",
    "ä",
    "=",
    "\n",
];

/// A small generator (xorshift64): the same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }
}

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut data = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        let end = at + random.below(data.len() - at + 1);
        match random.below(8) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 => drop(data.drain(at..end)),
            2 => drop(data.splice(at..end, TOKENS[random.below(TOKENS.len())].bytes())),
            3 => drop(data.splice(at..at, TOKENS[random.below(TOKENS.len())].bytes())),
            4 => data.truncate(at),
            5 => {
                let other = &seeds[random.below(seeds.len())];
                data.splice(at..end, other[random.below(other.len() + 1)..].iter().copied());
            }
            6 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            _ => {
                let piece = data[at..end.min(at + 8)].repeat(1 << random.below(11));
                data.splice(at..at, piece);
            }
        }
        data.truncate(BYTES_MAX);
    }
    data
}

fn hold(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(seeds.len() > 5, "the seeds are elsewhere");
    let asked = std::env::var("FUZZ_MUTATIONS").ok().and_then(|number| number.parse().ok());
    let mut random = Random(0x5EED_5EED_5EED_5EED);
    let mutations = (0..asked.unwrap_or(MUTATIONS)).map(|_| mutate(&mut random, &seeds));
    for data in seeds.iter().cloned().chain(mutations) {
        if catch_unwind(AssertUnwindSafe(|| run(&data))).is_err() {
            panic!("{target} fails on b\"{}\"", data.escape_ascii());
        }
    }
}

#[test]
fn frames_are_read_or_refused_in_few_words() {
    hold("frames", fuzz_targets::frames);
}

#[test]
fn a_specification_is_kept_byte_for_byte_or_refused() {
    hold("spec", fuzz_targets::spec);
}

#[test]
fn no_body_is_taken_over_a_limit() {
    hold("bodies", fuzz_targets::bodies);
}

#[test]
fn words_that_are_taken_mean_what_they_say() {
    hold("words", fuzz_targets::words);
}

#[test]
fn queries_and_event_streams_are_read_or_refused() {
    hold("queries", fuzz_targets::queries);
}
