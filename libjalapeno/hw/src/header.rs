//! `include/jalapeno_hw.h`, written from the tables: the same hardware for C, C++ and the kernel.

use core::fmt::{self, Display, Formatter, Write};

use crate::reg::{EnumRow, RegisterRow, StructRow};
use crate::tables::{ENUMS, NUMBERS, Numbers, SPACES, STRUCTS, Space};

/// Columns of a line.
const WIDTH: usize = 100;

const HEAD: &str = r#"/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The Jalapeño host interface, version 1, for C99, C11, C++11 and the Linux kernel.
 *
 * Generated from libjalapeno/hw; do not edit. What the rows mean: docs/host-interface.md.
 *
 * _MASK stays in place: field = (value & MASK) >> SHIFT. A FEATURE is a bit number. Codes and bits
 * marked RESERVED are refused by devices of version 1.0. Everything is little-endian.
 */
#ifndef JALAPENO_HW_H
#define JALAPENO_HW_H

#ifdef __KERNEL__
#include <linux/stddef.h>
#include <linux/types.h>
#else
#include <stddef.h>
#include <stdint.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the host interface is little-endian and its structures are used in place"
#endif

#if defined(__cplusplus)
#define JALAPENO_HW_ASSERT(condition) static_assert(condition, #condition)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define JALAPENO_HW_ASSERT(condition) _Static_assert(condition, #condition)
#else
#define JALAPENO_HW_ASSERT(condition) extern char jalapeno_hw_assert[(condition) ? 1 : -1]
#endif
"#;

/// Writes the whole header.
///
/// # Errors
/// Only what `out` gives.
pub fn write(out: &mut impl Write) -> fmt::Result {
    out.write_str(HEAD)?;
    for numbers in NUMBERS {
        write_numbers(out, numbers)?;
    }
    for space in SPACES {
        write_space(out, space)?;
    }
    for row in ENUMS {
        write_enum(out, row)?;
    }
    for row in STRUCTS {
        write_struct(out, row)?;
    }
    out.write_str("\n#undef JALAPENO_HW_ASSERT\n\n#endif\n")
}

fn write_numbers(out: &mut impl Write, numbers: &Numbers) -> fmt::Result {
    section(out, numbers.doc)?;
    for row in numbers.constants {
        let suffix = if row.ty == "u64" { "ULL" } else { "U" };
        comment(out, "", row.doc)?;
        write!(out, "#define JALAPENO_HW_{}{} ", numbers.prefix, row.name)?;
        if row.name.ends_with("_US") {
            writeln!(out, "{}{suffix}", row.value)?;
        } else {
            writeln!(out, "{:#x}{suffix}", row.value)?;
        }
    }
    Ok(())
}

fn write_space(out: &mut impl Write, space: &Space) -> fmt::Result {
    section(out, space.doc)?;
    for row in space.registers {
        write_register(out, space.prefix, row)?;
    }
    Ok(())
}

fn write_register(out: &mut impl Write, prefix: &str, row: &RegisterRow) -> fmt::Result {
    writeln!(out)?;
    let access = row.access.name();
    let bits = row.bytes * 8;
    if row.varies {
        wrapped(out, "", format_args!("{access}, {bits} bits."), row.doc)?;
    } else {
        let reset = row.reset;
        wrapped(
            out,
            "",
            format_args!("{access}, {bits} bits, reset {reset:#x}."),
            row.doc,
        )?;
    }
    writeln!(
        out,
        "#define JALAPENO_HW_{prefix}{} {:#05x}U",
        row.name, row.offset
    )?;
    for field in row.fields {
        let mask = (u64::MAX >> (63 - (field.high - field.low))) << field.low;
        let suffix = if row.bytes == 8 { "ULL" } else { "U" };
        let name = Upper(field.name);
        comment(out, "", field.doc)?;
        writeln!(
            out,
            "#define JALAPENO_HW_{prefix}{}_{name}_SHIFT {}",
            row.name, field.low
        )?;
        writeln!(
            out,
            "#define JALAPENO_HW_{prefix}{}_{name}_MASK {mask:#x}{suffix}",
            row.name
        )?;
    }
    Ok(())
}

fn write_enum(out: &mut impl Write, row: &EnumRow) -> fmt::Result {
    writeln!(out)?;
    comment(out, "", row.doc)?;
    writeln!(out, "enum jalapeno_hw_{} {{", Lower(row.name))?;
    for code in row.codes {
        if code.reserved {
            wrapped(out, "    ", format_args!("RESERVED."), code.doc)?;
        } else {
            comment(out, "    ", code.doc)?;
        }
        let group = Upper(row.name);
        writeln!(
            out,
            "    JALAPENO_HW_{group}_{} = {:#x},",
            code.name, code.value
        )?;
    }
    writeln!(out, "}};")
}

fn write_struct(out: &mut impl Write, row: &StructRow) -> fmt::Result {
    writeln!(out)?;
    comment(out, "", row.doc)?;
    let name = Lower(row.name);
    writeln!(out, "struct jalapeno_hw_{name} {{")?;
    for member in row.members {
        wrapped(
            out,
            "    ",
            format_args!("{:#04x}:", member.offset),
            member.doc,
        )?;
        writeln!(out, "    {};", Declared(member.ty, member.name))?;
    }
    writeln!(out, "}};")?;
    writeln!(
        out,
        "JALAPENO_HW_ASSERT(sizeof(struct jalapeno_hw_{name}) == {:#x});",
        row.bytes
    )?;
    for member in row.members {
        let (field, offset) = (member.name, member.offset);
        writeln!(
            out,
            "JALAPENO_HW_ASSERT(offsetof(struct jalapeno_hw_{name}, {field}) == {offset:#x});"
        )?;
    }
    Ok(())
}

fn section(out: &mut impl Write, title: &str) -> fmt::Result {
    let title = title.trim();
    let rule = WIDTH.saturating_sub(title.len() + 12);
    write!(out, "\n/* ---- {title} ")?;
    for _ in 0..rule {
        out.write_char('-')?;
    }
    out.write_str(" */\n")
}

fn comment(out: &mut impl Write, indent: &str, text: &str) -> fmt::Result {
    wrapped(out, indent, format_args!(""), text)
}

/// A comment of `lead` and then `text`, broken at WIDTH columns.
fn wrapped(
    out: &mut impl Write,
    indent: &str,
    lead: fmt::Arguments<'_>,
    text: &str,
) -> fmt::Result {
    write!(out, "{indent}/* ")?;
    let mut line = Column {
        out,
        at: indent.len() + 3,
    };
    line.write_fmt(lead)?;
    let mut first = line.at == indent.len() + 3;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if first {
            first = false;
        } else if line.at + 1 + length + 3 > WIDTH {
            write!(line.out, "\n{indent} * ")?;
            line.at = indent.len() + 3;
        } else {
            line.write_char(' ')?;
        }
        line.write_str(word)?;
    }
    out.write_str(" */\n")
}

/// Counts columns on the way out.
struct Column<'a, W> {
    out: &'a mut W,
    at: usize,
}

impl<W: Write> Write for Column<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.at += text.chars().count();
        self.out.write_str(text)
    }
}

/// `CamelCase` as `snake_case`; a run of capitals is one word (`DType` is `dtype`).
pub struct Lower<'a>(pub &'a str);

impl Display for Lower<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let mut small = false;
        for letter in self.0.chars() {
            if small && letter.is_ascii_uppercase() {
                out.write_char('_')?;
            }
            small = letter.is_ascii_lowercase();
            out.write_char(letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// `CamelCase` or `snake_case` as `UPPER_CASE`.
pub struct Upper<'a>(pub &'a str);

impl Display for Upper<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let mut small = false;
        for letter in self.0.chars() {
            if small && letter.is_ascii_uppercase() {
                out.write_char('_')?;
            }
            small = letter.is_ascii_lowercase();
            out.write_char(letter.to_ascii_uppercase())?;
        }
        Ok(())
    }
}

/// A member's declaration in C from its Rust type: `u32`, `[u64; 4]` or another structure.
struct Declared<'a>(&'a str, &'a str);

impl Display for Declared<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let (ty, name) = (self.0, self.1);
        let array = ty.strip_prefix('[').and_then(|ty| ty.strip_suffix(']'));
        let (element, count) = match array.and_then(|ty| ty.split_once("; ")) {
            Some((element, count)) => (element, Some(count)),
            None => (ty, None),
        };
        match element.strip_prefix('u') {
            Some(bits) => write!(out, "uint{bits}_t {name}")?,
            None => write!(out, "struct jalapeno_hw_{} {name}", Lower(element))?,
        }
        match count {
            Some(count) => write!(out, "[{count}]"),
            None => Ok(()),
        }
    }
}
