//! vfio-user: constants and layouts, nothing else.
#![no_std]
#![forbid(unsafe_code)]
