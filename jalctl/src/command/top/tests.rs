//! Screens: what a user sees, cell by cell, against the pictures in tests/cli/screens. `BLESS=1` draws
//! them anew.

use std::path::Path;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::board::Board;
use super::keys::Key;
use super::sample::{Process, Queue, Top, Why};
use super::screen::{Theme, draw};
use super::watch::Look;
use crate::exit::{Exit, Problem};

const SECOND: Duration = Duration::from_secs(1);
const UUIDS: [&str; 2] = [
    "c15c0289-ec2d-8a91-a7ec-8e65a18debbe",
    "7e1f5bd3-0c4a-8d16-9f22-31c8a0b4d907",
];

fn idle(index: usize) -> Top {
    Top {
        index: Some(index),
        product: Some("Jalapeno reference device".into()),
        interval_ns: Some(1_000_000_000),
        state: Some("ready".into()),
        generation: Some(3),
        busy_per_mille: Some(0),
        compute_per_mille: Some(0),
        copy_per_mille: Some(0),
        power_milliwatts: Some(75_000),
        power_limit_milliwatts: Some(700_000),
        die_temperature_millicelsius: Some(41_500),
        hbm_temperature_millicelsius: Some(39_200),
        throttle_temperature_millicelsius: Some(95_000),
        compute_clock_kilohertz: Some(300_000),
        throttle_count: Some(0),
        throttle_count_interval: Some(0),
        hbm_used_bytes: Some(0),
        hbm_total_bytes: Some(216_000_000_000),
        energy_microjoules: Some(9_000_000_000),
        energy_since_start_microjoules: Some(75_000_000),
        operations_per_second: Some(0),
        bytes_per_second: Some(0),
        jobs: Some(0),
        jobs_per_second: Some(0),
        missed_records: Some(0),
        holders: Some(Vec::new()),
        ..Top::default()
    }
}

fn busy(index: usize, per_mille: u64) -> Top {
    let queue = |queue, jobs, mean_ns, share| Queue {
        queue,
        jobs,
        jobs_per_second: jobs,
        mean_ns,
        p99_ns: mean_ns * 2,
        energy_nanojoules: share * 2_000_000,
        energy_per_mille: share,
        ..Queue::default()
    };
    let process = |pid, way: &str, command: &str| Process {
        pid,
        way: way.into(),
        user: Some("llm".into()),
        command: Some(command.into()),
    };
    Top {
        busy_per_mille: Some(per_mille),
        compute_per_mille: Some(per_mille - 10),
        copy_per_mille: Some(31),
        power_milliwatts: Some(per_mille * 600),
        die_temperature_millicelsius: Some(91_300),
        hbm_temperature_millicelsius: Some(84_900),
        compute_clock_kilohertz: Some(1_800_000),
        hbm_used_bytes: Some(68_719_476_736),
        energy_since_start_microjoules: Some(812_345_678),
        operations_per_second: Some(12_100_000_000_000),
        bytes_per_second: Some(3_400_000_000_000),
        jobs: Some(685),
        jobs_per_second: Some(685),
        energy_per_job_nanojoules: Some(3_100_000),
        queues: vec![
            queue(3, 640, 1_389_900, 982),
            queue(7, 44, 310, 18),
            Queue {
                failed: 1,
                ..queue(9, 1, 2_000_000_000, 0)
            },
        ],
        holders: Some(vec![
            process(4242, "owner", "llama-server"),
            process(77, "observer", "jalctl"),
        ]),
        ..idle(index)
    }
}

fn look(card: usize, result: Result<Top, Problem>) -> Look {
    Look {
        watcher: card,
        name: format!("vfio-user:/run/jalapeno/card{card}"),
        uuid: Some(UUIDS[card].into()),
        result,
    }
}

/// A board that watched so many cards for some seconds.
fn board(cards: usize, sample: impl Fn(usize, u64) -> Result<Top, Problem>, until: u32) -> Board {
    let mut board = Board::new(SECOND);
    for (card, uuid) in UUIDS.iter().enumerate().take(cards) {
        let name = format!("vfio-user:/run/jalapeno/card{card}");
        board.expect(card, &name, Some(uuid), Some(card));
    }
    for second in 1..=until {
        for card in 0..cards {
            board.hear(look(card, sample(card, second.into())), SECOND * second);
        }
    }
    board
}

/// The cells that a terminal of this size shows.
fn picture(board: &Board, now: Duration, size: (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).expect("a terminal");
    let theme = Theme { colour: false };
    terminal
        .draw(|frame| draw(frame, board, now, theme))
        .expect("drawn");
    let buffer = terminal.backend().buffer();
    let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
    let lines = cells.chunks(size.0.into());
    lines
        .map(|line| line.concat().trim_end().to_owned() + "\n")
        .collect()
}

fn expect(name: &str, picture: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cli/screens");
    let path = folder.join(name).with_extension("txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, picture).expect("blessed");
    }
    let wanted = std::fs::read_to_string(&path).expect("a picture");
    assert!(
        picture == wanted,
        "{} is drawn otherwise:\n{picture}\nBLESS=1 when that is right",
        path.display()
    );
}

fn load(card: usize, second: u64) -> Result<Top, Problem> {
    match card {
        0 => Ok(busy(0, 300 + second * 37 % 600)),
        _ => Ok(idle(card)),
    }
}

#[test]
fn one_card_works_and_one_is_idle() {
    let mut board = board(2, load, 40);
    expect("busy", &picture(&board, SECOND * 40, (132, 26)));
    board.press(Key::Down, SECOND);
    expect("idle", &picture(&board, SECOND * 40, (100, 20)));
}

#[test]
fn stale_telemetry_is_a_dash_with_its_reason() {
    let stale = |_, _| {
        let mut top = Top {
            power_milliwatts: None,
            die_temperature_millicelsius: None,
            operations_per_second: None,
            ..busy(0, 500)
        };
        for key in [
            "power_milliwatts",
            "die_temperature_millicelsius",
            "operations_per_second",
        ] {
            let why = Why::new("stale", "the value is 2310 ms old, which is too old");
            top.note::<()>(key, Err(why));
        }
        Ok(top)
    };
    let mut board = board(1, stale, 12);
    let cards = picture(&board, SECOND * 12, (100, 24));
    expect("stale", &cards);
    assert!(!cards.contains("0 W") && !cards.contains("0 \u{b0}C"));
    board.press(Key::Enter, SECOND);
    let details = picture(&board, SECOND * 12, (100, 40));
    expect("details", &details);
    assert!(details.contains("2310 ms"));
}

#[test]
fn a_card_that_is_lost_says_so_and_its_figures_go() {
    let lost = |card, second| match (card, second) {
        (1, 6..) => Err(Problem {
            code: "lost".into(),
            message: "device lost: its connection broke".into(),
            hint: Some("open it again, after a reset if need be".into()),
            exit: Exit::Lost,
        }),
        _ => load(card, second),
    };
    let mut board = board(2, lost, 20);
    board.press(Key::Down, SECOND);
    expect("lost", &picture(&board, SECOND * 20, (100, 20)));
}

#[test]
fn little_room_keeps_what_matters_and_too_little_says_so() {
    let mut board = board(2, load, 40);
    expect("narrow", &picture(&board, SECOND * 40, (60, 16)));
    expect("least", &picture(&board, SECOND * 40, (44, 8)));
    assert!(picture(&board, SECOND, (43, 20)).contains("too small"));
    board.press(Key::Help, SECOND);
    expect("help", &picture(&board, SECOND * 40, (90, 24)));
    // No size makes it fall over.
    for view in [Key::Back, Key::Enter, Key::Help] {
        board.press(view, SECOND);
        for width in (1..140).step_by(23) {
            for height in (1..30).step_by(3) {
                picture(&board, SECOND * 40, (width, height));
            }
        }
    }
}

#[test]
fn a_paused_screen_says_since_when() {
    let mut board = board(1, load, 5);
    board.press(Key::Pause, SECOND * 5);
    let shown = picture(&board, SECOND * 65, (100, 12));
    assert!(shown.contains("PAUSED 60 s ago"), "{shown}");
}

#[test]
fn colours_are_used_only_where_they_are_wanted() {
    let board = board(2, load, 5);
    let colours = |theme| {
        let mut terminal = Terminal::new(TestBackend::new(100, 24)).expect("a terminal");
        terminal
            .draw(|frame| draw(frame, &board, SECOND * 5, theme))
            .expect("drawn");
        let cells = terminal.backend().buffer().content().to_vec();
        cells.iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    assert_eq!(colours(Theme { colour: false }), 0);
    assert!(colours(Theme { colour: true }) > 20);
}

#[test]
fn names_cannot_speak_to_the_terminal() {
    let evil = |_, _| {
        let mut top = busy(0, 500);
        top.product = Some("a\u{1b}[2Jb".into());
        if let Some(holders) = &mut top.holders {
            holders[0].command = Some("\u{1b}]0;x\u{7}".into());
        }
        Ok(top)
    };
    let mut board = board(1, evil, 2);
    for _ in 0..2 {
        let shown = picture(&board, SECOND * 2, (100, 40));
        assert!(!shown.contains(['\u{1b}', '\u{7}']), "{shown:?}");
        board.press(Key::Enter, SECOND);
    }
}
