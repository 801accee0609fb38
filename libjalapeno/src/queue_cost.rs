//! What a command costs in instructions: the path of a queue, under callgrind.
//!
//! `tests/bench/commands` runs this under callgrind and counts what happens inside the functions
//! named `counted_*`; the loop around them and the played device are left out.

use std::hint::black_box;
use std::time::Instant;

use jalapeno_hw::packets::Packet;

use crate::completions::{Completion, Completions};
use crate::error::Result;
use crate::played::{nop, play};
use crate::queue::Queue;
use crate::units::Seq;

#[inline(never)]
fn counted_submit_one(queue: &mut Queue, packet: &Packet) -> Result<Seq> {
    queue.submit_one(packet)
}

#[inline(never)]
fn counted_submit(queue: &mut Queue, packets: &[Packet]) -> Result<Seq> {
    queue.submit(packets)
}

#[inline(never)]
fn counted_poll(completions: &Completions) -> Result<Seq> {
    completions.poll()
}

#[inline(never)]
fn counted_reap(completions: &Completions, out: &mut [Completion]) -> Result<usize> {
    completions.reap(out)
}

/// Runs `shape` (`sequence-1`, `sequence-32`, `each-1`, `each-32`) and prints nanoseconds.
#[test]
#[ignore = "a measurement: tests/bench/commands runs it"]
fn commands() {
    let shape = std::env::var("SHAPE").unwrap_or_else(|_| "sequence-1".into());
    let commands: u64 = std::env::var("COMMANDS").map_or(3_200_000, |n| n.parse().unwrap());
    let (kind, batch) = shape.split_once('-').unwrap();
    let batch: usize = batch.parse().unwrap();
    let (mut queue, device) = play(8, 3, kind == "each");
    let completions = queue.completions().clone();
    let packets: Vec<_> = (0..batch as u64).map(nop).collect();
    let mut out = vec![Completion::EMPTY; batch];
    let begin = Instant::now();
    for _ in 0..commands / batch as u64 {
        let last = match packets.as_slice() {
            [one] => counted_submit_one(&mut queue, black_box(one)).unwrap(),
            many => counted_submit(&mut queue, black_box(many)).unwrap(),
        };
        device.word(last.0);
        if kind == "each" {
            assert_eq!(
                counted_reap(&completions, black_box(&mut out)).unwrap(),
                batch
            );
        } else {
            assert_eq!(counted_poll(&completions).unwrap(), last);
        }
    }
    let nanos = begin.elapsed().as_nanos();
    println!(
        "{shape} {commands} commands, {} ps each",
        nanos * 1000 / u128::from(commands)
    );
}
