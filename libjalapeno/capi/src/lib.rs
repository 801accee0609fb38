//! The C ABI of libjalapeno.
