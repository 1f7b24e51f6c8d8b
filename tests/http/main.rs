//! The HTTP layer through raw sockets, against an engine that each test plays by hand.

mod answers;
mod client;
mod disconnects;
mod double;
mod errors;
mod fields;
mod limits;
mod operators;
mod shutdown;
mod structured;
mod tools;
