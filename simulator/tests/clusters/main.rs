//! Whole clusters of the real code under virtual time.
//!
//! Not among the library's own tests: those would compile all of a cluster a second time.

mod leader;
mod metadata;
mod seeds;
