//! The README's Rust program, on a board.

use jalapeno::error::Code;
use jalapeno_tests::{board, name};

#[allow(
    dead_code,
    missing_docs,
    reason = "a whole program, of which the story runs all but main"
)]
#[path = "../../libjalapeno/examples/copy.rs"]
mod copy;

#[test]
fn the_readmes_program_sends_its_text_to_the_card_and_gets_it_back() {
    let board = board();
    let text = "hello, card";
    assert_eq!(copy::round_trip(&name(&board), text).unwrap(), text);
    assert_eq!(copy::round_trip(&name(&board), text).unwrap(), text);
    let gone = copy::round_trip("vfio-user:/nowhere/card", text).unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}
