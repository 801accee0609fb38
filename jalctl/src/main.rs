//! Find, watch, test and reset Jalapeño cards.
fn main() {}
