//! The fault matrix: every way in which a queue can be failed, by every wait, depth and number of
//! queues, against the six invariants.

use jalapeno_emulator::faults::Fault;
use jalapeno_hw::faults::FaultCode;
use jalapeno_tests::{Stage, story, undisturbed};

use crate::cell::{Cell, End, Mishap, Place, Row, Waiting, play};

/// Depth and number of queues.
const COLUMNS: [(u32, usize); 6] = [(1, 1), (1, 4), (32, 1), (32, 4), (256, 1), (256, 4)];

/// Whether anybody but the library itself looks after the doorbell and the interrupt.
fn alone_with_it(cell: &Cell) -> bool {
    cell.waiting == Waiting::Sleep
}

const ROWS: &[Row] = &[
    Row {
        number: "D01",
        mishap: Mishap::Fault(Fault::EngineStops),
        place: Place::Middle,
        end: |_| End::Standstill,
    },
    Row {
        number: "D02 under",
        mishap: Mishap::Fault(Fault::JustInTime),
        place: Place::Middle,
        end: |_| End::Done,
    },
    Row {
        number: "D02 over",
        mishap: Mishap::Fault(Fault::JustLate),
        place: Place::Middle,
        end: |_| End::Done,
    },
    Row {
        number: "D03 repeats",
        mishap: Mishap::Fault(Fault::SequenceRepeats),
        place: Place::Middle,
        end: |cell| match cell.depth {
            1 => End::Unsaid,
            _ => End::Done,
        },
    },
    Row {
        number: "D03 repeats, last",
        mishap: Mishap::Fault(Fault::SequenceRepeats),
        place: Place::Last,
        end: |_| End::Unsaid,
    },
    Row {
        number: "D03 backwards",
        mishap: Mishap::Fault(Fault::SequenceBackwards),
        place: Place::Middle,
        end: |_| End::BreachIfSeen(FaultCode::SequenceBackwards),
    },
    Row {
        number: "D04",
        mishap: Mishap::Fault(Fault::SequenceBeyond),
        place: Place::Last,
        end: |_| End::Breach(&[FaultCode::SequenceBeyond]),
    },
    Row {
        number: "D05",
        mishap: Mishap::Fault(Fault::RecordStray),
        place: Place::Middle,
        end: |_| End::Breach(&[FaultCode::RecordStray]),
    },
    Row {
        number: "D06 generation",
        mishap: Mishap::Fault(Fault::RecordStale),
        place: Place::Middle,
        end: |_| End::Breach(&[FaultCode::RecordStale]),
    },
    Row {
        number: "D06 lap",
        mishap: Mishap::Fault(Fault::RecordEarlierLap),
        place: Place::Middle,
        end: |_| End::Breach(&[FaultCode::RecordMissing]),
    },
    Row {
        number: "D08",
        mishap: Mishap::Fault(Fault::RecordTorn),
        place: Place::Middle,
        end: |_| End::Breach(&[FaultCode::RecordCorrupt]),
    },
    Row {
        number: "D10",
        mishap: Mishap::Fault(Fault::SequencePasses),
        place: Place::Middle,
        end: |_| End::Breach(&[FaultCode::SequenceBeyond]),
    },
    Row {
        number: "D11",
        mishap: Mishap::Fault(Fault::RecordsOverrun),
        place: Place::Middle,
        end: |_| End::Breach(&[FaultCode::RecordMissing, FaultCode::RecordCorrupt]),
    },
    Row {
        number: "D12",
        mishap: Mishap::Fault(Fault::RecordWrongQueue),
        place: Place::Middle,
        end: |_| End::Breach(&[FaultCode::RecordStray]),
    },
    Row {
        number: "D13",
        mishap: Mishap::Fault(Fault::RecordUnknown),
        place: Place::Middle,
        end: |_| End::Breach(&[FaultCode::RecordCorrupt]),
    },
    Row {
        number: "D16",
        mishap: Mishap::Fault(Fault::DoorbellLost),
        place: Place::Middle,
        end: |cell| match alone_with_it(cell) {
            true => End::DoneAfter(FaultCode::DoorbellLost),
            false => End::Silence,
        },
    },
    Row {
        number: "D17",
        mishap: Mishap::Fault(Fault::DoorbellRepeated),
        place: Place::Middle,
        end: |_| End::Done,
    },
    Row {
        number: "D18",
        mishap: Mishap::Fault(Fault::InterruptSpurious),
        place: Place::Middle,
        end: |_| End::Done,
    },
    Row {
        number: "D19",
        mishap: Mishap::Fault(Fault::InterruptLost),
        place: Place::Middle,
        end: |cell| match alone_with_it(cell) {
            true => End::DoneAfter(FaultCode::InterruptMissing),
            false => End::Done,
        },
    },
    Row {
        number: "D20",
        mishap: Mishap::Fault(Fault::InterruptStorm),
        place: Place::Middle,
        end: |_| End::Done,
    },
    Row {
        number: "D21",
        mishap: Mishap::Fault(Fault::InterruptElsewhere),
        place: Place::Middle,
        end: |cell| match alone_with_it(cell) {
            true => End::DoneAfter(FaultCode::InterruptMissing),
            false => End::Done,
        },
    },
    Row {
        number: "D22",
        mishap: Mishap::Fault(Fault::Hangs),
        place: Place::Middle,
        end: |_| End::Silence,
    },
    Row {
        number: "D31",
        mishap: Mishap::Fault(Fault::EccUncorrected),
        place: Place::Middle,
        end: |_| End::Fails(FaultCode::EccUncorrected),
    },
    Row {
        number: "D51",
        mishap: Mishap::Unmapped,
        place: Place::Middle,
        end: |_| End::Fails(FaultCode::UnmappedRead),
    },
];

/// Plays every cell with one kind of wait.
fn matrix(story: &str, waiting: Waiting) {
    let Some(stage) = Stage::that_misbehaves(story) else {
        return;
    };
    // What is only ever made once is there before anything is counted.
    let warm = Cell {
        waiting,
        depth: 32,
        queues: 4,
    };
    let warming = stage.rounds(23) as usize;
    for row in ROWS.iter().filter(|row| row.number != "D01").take(warming) {
        play(&stage, row, &warm);
    }
    let mut cells = 0;
    for (number, row) in ROWS.iter().enumerate() {
        for (place, (depth, queues)) in COLUMNS.into_iter().enumerate() {
            if stage.board().is_none() && !is_of_this_turn(&stage, waiting, number, place) {
                continue;
            }
            let cell = Cell {
                waiting,
                depth,
                queues,
            };
            play(&stage, row, &cell);
            cells += 1;
        }
    }
    println!("= fault matrix, {waiting:?}: {cells} cells run");
    assert_eq!(ROWS.len() * COLUMNS.len(), 144);
    assert_eq!(cells, stage.rounds(144), "all of them, or a twentieth");
}

/// Behind a kernel each row is played once, by one of the three waits, at one depth and with one number
/// of queues; which, changes from turn to turn.
fn is_of_this_turn(stage: &Stage, waiting: Waiting, row: usize, column: usize) -> bool {
    let turn = stage.turn();
    let wait = [Waiting::Poll, Waiting::Sleep, Waiting::Loop][(row + turn) % 3];
    wait == waiting && column == (row / 3 + turn) % COLUMNS.len()
}

#[test]
fn each_fault_is_met_by_whoever_polls() {
    undisturbed!();
    matrix(story!(), Waiting::Poll);
}

#[test]
fn each_fault_is_met_by_whoever_sleeps_until_the_interrupt() {
    undisturbed!();
    matrix(story!(), Waiting::Sleep);
}

#[test]
fn each_fault_is_met_by_an_epoll_loop() {
    undisturbed!();
    matrix(story!(), Waiting::Loop);
}
