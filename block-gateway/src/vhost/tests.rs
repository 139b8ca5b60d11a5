//! The device as a frontend and a guest see it: real sockets, real descriptors, rings written by hand.

mod disk;
mod guest;
mod machine;

mod commands;
mod malformed;
mod sessions;
