//! Stories of the library on a board: one file a theme.

mod between;
mod callers;
mod cell;
mod copy;
mod faults;
mod fence;
mod foreign;
mod giving;
mod graph;
mod host;
mod management;
mod mappings;
mod memory;
mod open;
mod owners;
mod peer;
mod profile;
mod quickstart;
mod reset;
mod service;
mod soak;
mod submit;
mod teardown;
mod trouble;
mod wait;
mod watch;
