//! Text substitution: WGSL has no generics, so a kernel is a text with markers.
//!
//! A marker is `$` and upper-case letters, digits and underscores. Every marker must have a value; one that has none
//! is left in the text, which then does not parse, so that the variant tests find it.

use std::borrow::Cow;

/// Values of markers, few enough for a linear search.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vars(Vec<(&'static str, Cow<'static, str>)>);

impl Vars {
    /// Sets a marker, replacing an earlier value.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<Cow<'static, str>>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// `text` with every known marker replaced. Values may hold markers themselves, one level deep.
    pub(crate) fn apply(&self, text: &str) -> String {
        let once = self.replace(text);
        if once.contains('$') { self.replace(&once) } else { once }
    }

    fn replace(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 64);
        let mut parts = text.split('$');
        out.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let end = part.find(|c: char| !marker_char(c)).unwrap_or(part.len());
            let (name, rest) = part.split_at(end);
            match self.0.iter().find(|(known, _)| *known == name) {
                Some((_, value)) => out.push_str(value),
                None => {
                    out.push('$');
                    out.push_str(name);
                }
            }
            out.push_str(rest);
        }
        out
    }
}

fn marker_char(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_ends_where_lower_case_begins() {
        let mut vars = Vars::default();
        vars.set("LANES", "4");
        vars.set("LANES_LOG2", "2");
        assert_eq!(vars.apply("i / $LANESu + $LANES_LOG2;"), "i / 4u + 2;");
    }

    #[test]
    fn values_may_hold_markers_and_unknown_ones_stay() {
        let mut vars = Vars::default();
        vars.set("CALL", "f(load_$NAME(i))");
        vars.set("NAME", "a");
        assert_eq!(vars.apply("$CALL $MISSING"), "f(load_a(i)) $MISSING");
        vars.set("NAME", "b");
        assert_eq!(vars.apply("$CALL"), "f(load_b(i))");
    }
}
