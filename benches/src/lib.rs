//! Benchmarks of single parts; each is a program in `src/bin`, run by `make bench`.
//!
//! Figures of the whole system come from `bixi bench`, which needs a running server.
