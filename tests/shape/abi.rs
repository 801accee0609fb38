//! `include/jalapeno.h`: every exported function says what it does.

use crate::blessed::read;
use crate::tree::expect_none;

const PATH: &str = "include/jalapeno.h";

/// The exported functions: each declaration's name, and the comment that ends on the line above it.
fn declared(header: &str) -> Vec<(&str, String)> {
    let lines: Vec<&str> = header.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = name(line) else { continue };
        let mut comment = Vec::new();
        if at > 0 && lines[at - 1].ends_with("*/") {
            for line in lines[..at].iter().rev() {
                comment.insert(0, *line);
                if line.trim_start().starts_with("/*") {
                    break;
                }
            }
        }
        found.push((name, comment.join("\n")));
    }
    found
}

/// The function that a line declares.
fn name(line: &str) -> Option<&str> {
    let (before, _) = line.split_once('(')?;
    let kind = line.starts_with(|c: char| c.is_ascii_lowercase());
    let inline = line.starts_with("static") || line.starts_with("typedef");
    let start = before.rfind(|c: char| !c.is_alphanumeric() && c != '_')? + 1;
    (kind && !inline && before[start..].starts_with("jal_")).then_some(&before[start..])
}

/// Functions without a word: none above the declaration, and not named in another's.
fn unexplained(header: &str) -> Vec<String> {
    let all = declared(header);
    let explained = |name: &str, own: &str| {
        let called = format!("{name}()");
        own.len() > 12 || all.iter().any(|(_, comment)| comment.contains(&called))
    };
    let silent = all.iter().filter(|(name, own)| !explained(name, own));
    silent
        .map(|(name, _)| format!("{name} says nothing of itself"))
        .collect()
}

#[test]
fn every_function_of_the_c_abi_is_documented() {
    let header = read(PATH);
    let functions = declared(&header).len();
    assert!(functions >= 40, "only {functions} functions found");
    expect_none(&unexplained(&header));
}

#[test]
fn a_function_without_a_word_is_noticed() {
    let silent = "/* Opens it. */\njal_status jal_open(int a);\n\njal_status jal_close(int a);\n";
    assert_eq!(unexplained(silent), ["jal_close says nothing of itself"]);
    let named = "/* Opens it. Close with jal_close(). */\njal_status jal_open(int a);\n\njal_status jal_close(int a);\n";
    assert!(unexplained(named).is_empty());
    let empty = "/* */\nconst char *jal_words(int a);\n";
    assert_eq!(unexplained(empty), ["jal_words says nothing of itself"]);
    assert_eq!(name("static inline int jal_packet(int a) {"), None);
    assert_eq!(name("const char *jal_words(int a);"), Some("jal_words"));
}
