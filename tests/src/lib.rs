//! What the stories share: a card to play on, packets, and eyes on what is left behind.
//!
//! [`mod@stage`] is the only room that knows how a card is reached.

pub mod alone;
pub mod asleep;
pub mod events;
pub mod invariants;
pub mod mischief;
pub mod packet;
pub mod shared;
pub mod stage;

pub use alone::Part;
pub use asleep::Asleep;
pub use invariants::Invariants;
pub use jalapeno_stopwatch::{Stopwatch, calmly};
pub use shared::Shared;
pub use stage::{SOON, Stage, board, board_with, name, open, stage};
