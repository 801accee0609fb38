//! Stories of the library on a board: one file a theme.

mod cell;
mod faults;
mod fence;
mod memory;
mod open;
mod quickstart;
mod reset;
mod submit;
mod teardown;
mod trouble;
mod wait;
mod watch;
