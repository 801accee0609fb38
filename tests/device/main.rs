//! Stories of the library on a board: one file a theme.

mod fence;
mod memory;
mod open;
mod quickstart;
mod reset;
mod trouble;
mod watch;
