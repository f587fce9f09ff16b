//! The library of WGSL functions, and the linker that takes what a kernel names.
//!
//! WGSL has no includes. A kernel may call any function of `wgsl/lib`; [`link`] appends those it reaches, and
//! nothing else, so that generated texts stay short and quick to compile. An item is found by its first line, which
//! starts in column 0, and ends there if that line ends in `;`, else at the next line that starts with `}` or `)`.

use crate::template::Vars;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

/// The files of the library. Order means nothing.
const FILES: &[&str] = &[
    include_str!("../wgsl/lib/bits.wgsl"),
    include_str!("../wgsl/lib/codec.wgsl"),
    include_str!("../wgsl/lib/cast.wgsl"),
    include_str!("../wgsl/lib/scalars.wgsl"),
    include_str!("../wgsl/lib/rounded.wgsl"),
    include_str!("../wgsl/lib/exp.wgsl"),
    include_str!("../wgsl/lib/log.wgsl"),
    include_str!("../wgsl/lib/pow.wgsl"),
    include_str!("../wgsl/lib/trig.wgsl"),
    include_str!("../wgsl/lib/inverse_trig.wgsl"),
    include_str!("../wgsl/lib/hyperbolic.wgsl"),
    include_str!("../wgsl/lib/erf.wgsl"),
    include_str!("../wgsl/lib/divide.wgsl"),
    include_str!("../wgsl/lib/exact.wgsl"),
    include_str!("../wgsl/lib/unary_float.wgsl"),
    include_str!("../wgsl/lib/unary_int.wgsl"),
    include_str!("../wgsl/lib/activation.wgsl"),
    include_str!("../wgsl/lib/binary_float.wgsl"),
    include_str!("../wgsl/lib/binary_int.wgsl"),
    include_str!("../wgsl/lib/backward.wgsl"),
    include_str!("../wgsl/lib/ternary.wgsl"),
    include_str!("../wgsl/lib/combine.wgsl"),
    include_str!("../wgsl/lib/creation.wgsl"),
    include_str!("../wgsl/lib/index.wgsl"),
    include_str!("../wgsl/lib/random.wgsl"),
    include_str!("../wgsl/lib/sort.wgsl"),
    include_str!("../wgsl/lib/bessel.wgsl"),
    include_str!("../wgsl/lib/gamma.wgsl"),
    include_str!("../wgsl/lib/special.wgsl"),
];

const KEYWORDS: [&str; 5] = ["fn ", "const ", "struct ", "var<private> ", "alias "];

static LIBRARY: LazyLock<HashMap<&'static str, String>> =
    LazyLock::new(|| FILES.iter().flat_map(|file| items(file)).collect());

/// `text` with its markers replaced, followed by every library item that it reaches. Markers in an item are replaced
/// too, before it is searched for the names of others.
pub(crate) fn link(text: &str, vars: &Vars) -> String {
    let library = &*LIBRARY;
    let mut linked = vars.apply(text);
    let mut reached: BTreeMap<&'static str, Cow<'static, str>> = BTreeMap::new();
    let mut wanted = named(&linked);
    while let Some(name) = wanted.pop() {
        if reached.contains_key(name) {
            continue;
        }
        let item = &library[name];
        let item: Cow<'static, str> =
            if item.contains('$') { vars.apply(item).into() } else { item.as_str().into() };
        wanted.extend(named(&item));
        reached.insert(name, item);
    }
    // In the order of the names, since snapshots and the drivers' caches compare texts.
    for item in reached.values() {
        linked.push('\n');
        linked.push_str(item);
    }
    linked
}

/// Whether a function, or one that it reaches, reads the kernel's parameters or has markers of the kernel's own. `compute`
/// is the type computed in.
pub(crate) fn reads_params(function: &str, compute: &'static str) -> bool {
    let mut vars = Vars::default();
    vars.set("C", compute);
    let text = link(&format!("fn main() {{ _ = {function}; }}"), &vars);
    text.contains('$') || words_before_dot(&text).any(|word| word == "p")
}

/// Words that a dot follows.
fn words_before_dot(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('.').filter_map(|(dot, _)| text[..dot].rsplit(|c: char| !word_char(c)).next())
}

/// Items that a text names.
fn named(text: &str) -> Vec<&'static str> {
    words(text).filter_map(|word| LIBRARY.get_key_value(word)).map(|(name, _)| *name).collect()
}

/// Name and text of each item of a file, comments left out.
fn items(file: &'static str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut lines = file.lines();
    while let Some(line) = lines.next() {
        let Some(rest) = KEYWORDS.iter().find_map(|keyword| line.strip_prefix(keyword)) else { continue };
        let end = rest.find(|c: char| !word_char(c)).unwrap_or(rest.len());
        let mut text = code(line).to_owned() + "\n";
        if !code(line).ends_with(';') && !code(line).ends_with('}') {
            for line in lines.by_ref() {
                if !code(line).is_empty() {
                    text.push_str(code(line));
                    text.push('\n');
                }
                if line.starts_with(['}', ')']) {
                    break;
                }
            }
        }
        found.push((&rest[..end], text));
    }
    found
}

/// A line without its comment.
pub(crate) fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default().trim_end()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !word_char(c)).filter(|word| !word.is_empty())
}

fn word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_named_once() {
        let mut names: Vec<_> = FILES.iter().flat_map(|file| items(file)).map(|(name, _)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(count > 100, "{count}");
    }

    #[test]
    fn every_line_of_code_belongs_to_an_item() {
        for file in FILES {
            let lines = file.lines().filter(|line| !code(line).is_empty()).count();
            let kept: usize = items(file).iter().map(|(_, text)| text.lines().count()).sum();
            assert_eq!(lines, kept, "in the file that starts with {:?}", file.lines().next());
        }
    }

    #[test]
    fn a_name_made_by_a_marker_is_found() {
        let mut vars = Vars::default();
        vars.set("C", "i64");
        let linked = link("fn main() { _ = i_fill(0u); }", &vars);
        assert!(linked.contains("fn scalar_i64(") && !linked.contains('$'), "{linked}");
    }

    #[test]
    fn functions_that_read_parameters_are_told_from_others() {
        for function in [
            "f_clamp",
            "f_softplus",
            "f_hardtanh",
            "i_clamp",
            "f_add_alpha",
            "f_dropout",
            "f_normal",
            "f_div_trunc_rounded",
        ] {
            assert!(reads_params(function, "f32"), "{function}");
        }
        for function in ["f_relu", "f_gelu", "f_silu", "f_add", "f_where", "i_add", "f_pow"] {
            assert!(!reads_params(function, "f32"), "{function}");
        }
    }

    #[test]
    fn what_is_reached_is_linked_and_nothing_else() {
        let linked = link("fn main() { _ = tanh_f32(1.0); }", &Vars::default());
        assert!(linked.contains("fn tanh_f32(") && linked.contains("fn exp_f32("), "{linked}");
        assert!(!linked.contains("fn log_f32("), "{linked}");
    }
}
