//! What the stories share: a board started for one test, and the library opened on it.

use std::sync::Arc;
use std::time::Duration;

use jalapeno::device::{Device, Role};
use jalapeno::error::Result;
use jalapeno_emulator::board::Board;
use jalapeno_emulator::identity::Options;

/// Long enough for anything that works, on a machine with better things to do.
pub const SOON: Duration = Duration::from_secs(5);

/// A small board: 64 MiB of HBM. It ends when it is dropped.
#[must_use]
pub fn board() -> Board {
    board_with(|_| {})
}

/// A small board with something changed.
#[must_use]
#[expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    reason = "a test's starter"
)]
pub fn board_with(change: impl FnOnce(&mut Options)) -> Board {
    let mut options = Options {
        hbm_bytes: 64 << 20,
        resident_limit: 64 << 20,
        threads: 1,
        ..Options::default()
    };
    change(&mut options);
    Board::start(options).expect("a board starts")
}

/// What `Device::open` takes to reach it.
#[must_use]
pub fn name(board: &Board) -> String {
    format!("vfio-user:{}", board.path().display())
}

/// Opens it.
///
/// # Errors
/// As `Device::open`.
pub fn open(board: &Board, role: Role) -> Result<Arc<Device>> {
    Device::open(&name(board), role)
}
