//! Empty: the programs are in the binary. The library exists so that cargo rebuilds the tests when a
//! dependency of the programs changes.
#![no_std]
