//! Floor 3 (work in progress).
