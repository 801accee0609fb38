//! The rules of the house: floors, files, headers, layouts and documents agree with what is declared.

mod abi;
mod blessed;
mod compiler;
mod crates;
mod document;
mod files;
mod floors;
mod header;
mod kernel;
mod layout;
mod tree;
mod words;
