//! What a C compiler makes of the header, value for value, against the hardware's tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jalapeno_hw::tables::{ENUMS, NUMBERS, SPACES, STRUCTS};

use crate::blessed::read;
use crate::compiler::run;

/// A program that prints every size, offset and value that the header's text names.
fn program() -> String {
    let mut body = String::new();
    let mut tag = None;
    for line in read("include/jalapeno_hw.h").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["struct", name, "{"] => {
                tag = Some((*name).to_owned());
                writeln!(body, "    size(\"{name}\", sizeof(struct {name}), 0);")
                    .expect("a string");
            }
            ["};"] => tag = None,
            ["#define", name, _] if !name.contains('(') => {
                writeln!(body, "    value(\"{name}\", {name});").expect("a string");
            }
            [name, "=", _] if name.starts_with("JALAPENO_HW_") => {
                writeln!(body, "    value(\"{name}\", {name});").expect("a string");
            }
            [.., last] if last.ends_with(';') && tag.is_some() => {
                let member = last
                    .trim_end_matches(';')
                    .split('[')
                    .next()
                    .unwrap_or_default();
                let tag = tag.as_deref().unwrap_or_default();
                writeln!(
                    body,
                    "    size(\"{tag}.{member}\", sizeof(((struct {tag} *)0)->{member}), \
                     offsetof(struct {tag}, {member}));"
                )
                .expect("a string");
            }
            _ => {}
        }
    }
    format!(
        "#include <stdio.h>\n#include \"jalapeno_hw.h\"\n\
         static void size(const char *name, size_t bytes, size_t at) {{ printf(\"%s %zu %zu\\n\", name, bytes, at); }}\n\
         static void value(const char *name, unsigned long long value) {{ printf(\"%s %llu 0\\n\", name, value); }}\n\
         int main(void) {{\n{body}    return 0;\n}}\n"
    )
}

fn printed(standard: &str) -> BTreeMap<String, (u64, u64)> {
    let mut seen = BTreeMap::new();
    for line in run(&format!("layout-{standard}"), &program(), standard).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, first, second] = words.as_slice() else {
            panic!("the program printed {line:?}");
        };
        let pair = (
            first.parse().expect("a number"),
            second.parse().expect("a number"),
        );
        assert!(
            seen.insert((*name).to_owned(), pair).is_none(),
            "{name} twice"
        );
    }
    seen
}

fn snake(camel: &str) -> String {
    let mut out = String::new();
    let letters: Vec<char> = camel.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        if at > 0 && letter.is_uppercase() && letters[at - 1].is_lowercase() {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

/// Bytes of a Rust type as the tables spell it.
fn bytes(ty: &str) -> u64 {
    if let Some(array) = ty.strip_prefix('[') {
        let (element, count) = array
            .trim_end_matches(']')
            .split_once("; ")
            .expect("an array");
        return bytes(element) * count.parse::<u64>().expect("a length");
    }
    match ty {
        "u8" => 1,
        "u16" => 2,
        "u32" => 4,
        "u64" => 8,
        "CapHeader" => 8,
        other => panic!("no size known for {other}"),
    }
}

/// The same from the hardware's tables.
fn declared() -> BTreeMap<String, (u64, u64)> {
    let mut wanted = BTreeMap::new();
    for row in STRUCTS {
        let tag = format!("jalapeno_hw_{}", snake(row.name));
        wanted.insert(tag.clone(), (row.bytes as u64, 0));
        for member in row.members {
            let name = format!("{tag}.{}", member.name);
            wanted.insert(name, (bytes(member.ty), member.offset as u64));
        }
    }
    for row in ENUMS {
        for code in row.codes {
            let name = format!(
                "JALAPENO_HW_{}_{}",
                snake(row.name).to_uppercase(),
                code.name
            );
            wanted.insert(name, (u64::from(code.value), 0));
        }
    }
    for numbers in NUMBERS {
        for row in numbers.constants {
            wanted.insert(
                format!("JALAPENO_HW_{}{}", numbers.prefix, row.name),
                (row.value, 0),
            );
        }
    }
    for space in SPACES {
        for row in space.registers {
            let name = format!("JALAPENO_HW_{}{}", space.prefix, row.name);
            for field in row.fields {
                let field_name = format!("{name}_{}", field.name.to_uppercase());
                let mut mask = 0u64;
                for bit in field.low..=field.high {
                    mask |= 1 << bit;
                }
                wanted.insert(format!("{field_name}_SHIFT"), (u64::from(field.low), 0));
                wanted.insert(format!("{field_name}_MASK"), (mask, 0));
            }
            wanted.insert(name, (u64::from(row.offset), 0));
        }
    }
    wanted
}

#[test]
fn a_c_compiler_sees_the_sizes_offsets_and_values_that_are_declared() {
    let wanted = declared();
    for standard in ["c11", "c++17"] {
        let seen = printed(standard);
        for (name, pair) in &wanted {
            assert_eq!(
                seen.get(name),
                Some(pair),
                "{standard}: {name} (value or size, offset)"
            );
        }
        for name in seen.keys() {
            assert!(
                wanted.contains_key(name),
                "{standard}: {name} stands only in the header"
            );
        }
    }
}
