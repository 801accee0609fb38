//! The rules of the house: headers, layouts and documents agree with what is declared.

mod blessed;
mod compiler;
mod document;
mod header;
mod layout;
