//! The hardware interface, declared: registers, packets, records and limits.
#![no_std]
#![forbid(unsafe_code)]
