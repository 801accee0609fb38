//! The Rust examples, on a board.

use jalapeno::error::Code;
use jalapeno_tests::{board, name};

#[allow(
    dead_code,
    missing_docs,
    reason = "a whole program, of which the story runs all but main"
)]
#[path = "../../libjalapeno/examples/copy.rs"]
mod copy;

#[allow(
    dead_code,
    missing_docs,
    reason = "a whole program, of which the story runs all but main"
)]
#[path = "../../libjalapeno/examples/graph.rs"]
mod graph;

#[test]
fn the_recorded_graph_draws_a_token_for_each_number() {
    let board = board();
    let name = name(&board);
    // Two are left by the weights: of the others all but nothing.
    let logits = [90.0, -50.0, 90.0, f32::NAN];
    let uniform = [0, u32::MAX, (1 << 31) - 1, 1 << 31, 7];
    let tokens = graph::draw(&name, &logits, &uniform).unwrap();
    assert_eq!(tokens, [0, 2, 0, 2, 0]);
    assert!(graph::draw(&name, &logits, &[]).unwrap().is_empty());
    // An empty vocabulary has no token: the device says so, and the packet of the graph.
    let error = graph::draw(&name, &[], &[1]).unwrap_err();
    assert_eq!(error.code(), Code::Fault);
    assert!(
        error.to_string().contains("packet 0 of its graph"),
        "{error}"
    );
}

#[test]
fn the_readmes_program_sends_its_text_to_the_card_and_gets_it_back() {
    let board = board();
    let text = "hello, card";
    assert_eq!(copy::round_trip(&name(&board), text).unwrap(), text);
    assert_eq!(copy::round_trip(&name(&board), text).unwrap(), text);
    let gone = copy::round_trip("vfio-user:/nowhere/card", text).unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}
