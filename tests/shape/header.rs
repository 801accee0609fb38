//! `include/jalapeno_hw.h` is what the hardware's tables say, and compiles wherever it is used.

use std::collections::BTreeSet;
use std::fs;

use jalapeno_hw::header;

use crate::blessed::{check, read};
use crate::compiler::{WARNINGS, complaints, scratch};

const PATH: &str = "include/jalapeno_hw.h";
const ONLY: &str = "#include \"jalapeno_hw.h\"\n#include \"jalapeno_hw.h\"\nextern int used;\n";

#[test]
fn the_hardware_header_is_what_the_tables_say() {
    let mut wanted = String::new();
    header::write(&mut wanted).expect("a string takes everything");
    check(PATH, &wanted);
}

#[test]
fn the_hardware_header_compiles_without_a_warning_in_every_standard() {
    for standard in ["c99", "c11", "c17", "gnu11", "c++11", "c++17", "c++20"] {
        let name = format!("only-{standard}");
        let said = complaints(&name, ONLY, standard, WARNINGS);
        assert!(said.is_empty(), "{standard}:\n{said}");
    }
}

#[test]
fn a_structure_of_another_size_does_not_compile() {
    for standard in ["c99", "c11", "c++17"] {
        let narrow = "#include <stdint.h>\n#define uint16_t uint8_t\n";
        let said = complaints(
            &format!("narrow-{standard}"),
            &format!("{narrow}{ONLY}"),
            standard,
            &[],
        );
        assert!(
            said.contains("error"),
            "{standard} took 8 bits for 16:\n{said}"
        );
    }
}

#[test]
fn in_the_kernel_the_header_takes_nothing_but_linux_headers() {
    let linux = scratch("kernel-headers/linux");
    fs::create_dir_all(&linux).expect("make a stand-in for the kernel's headers");
    let types = "typedef unsigned char uint8_t;\ntypedef unsigned short uint16_t;\n\
                 typedef unsigned int uint32_t;\ntypedef unsigned long long uint64_t;\n";
    fs::write(linux.join("types.h"), types).expect("write linux/types.h");
    let stddef = "#define offsetof(type, member) __builtin_offsetof(type, member)\n";
    fs::write(linux.join("stddef.h"), stddef).expect("write linux/stddef.h");
    let folder = scratch("kernel-headers");
    let folder = folder.to_str().expect("a plain path");
    let mut options = WARNINGS.to_vec();
    options.extend(["-D__KERNEL__", "-nostdinc", "-ffreestanding", "-I", folder]);
    let said = complaints("kernel", ONLY, "gnu11", &options);
    assert!(said.is_empty(), "{said}");
}

#[test]
fn every_name_in_the_header_is_taken_once() {
    let text = read(PATH);
    let mut names = BTreeSet::new();
    let words = text.lines().filter_map(|line| {
        let line = line.trim();
        let define = line
            .strip_prefix("#define ")
            .and_then(|rest| rest.split_whitespace().next());
        let code = line
            .strip_prefix("JALAPENO_HW_")
            .and_then(|_| line.split_once(" = "));
        let tag = line.strip_suffix(" {").filter(|tag| !tag.starts_with('/'));
        define.or(code.map(|(name, _)| name)).or(tag)
    });
    for name in words.filter(|name| !name.starts_with("JALAPENO_HW_ASSERT")) {
        assert!(names.insert(name), "{name} stands twice");
    }
    assert!(names.len() > 300, "only {} names found", names.len());
}
