//! Nothing: the programs are the binary. A library makes cargo rebuild the daemon when they change.
#![no_std]
