//! Stories of the library on a board: one file a theme.

mod fence;
mod memory;
mod open;
mod reset;
mod trouble;
mod watch;
