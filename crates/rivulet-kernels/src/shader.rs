//! Puts a kernel's WGSL together: parameters, operands with their loads and stores, the body, and the library.

use crate::dtype::{DType, Native};
use crate::library;
use crate::template::Vars;
use std::borrow::Cow;
use std::fmt::Write;

/// How a run of elements is stored. See `wgsl/operand`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Store {
    /// Whole elements of a word or more, at any place.
    Wide,
    /// Whole words of several elements; the run begins with a word and its last word may be overwritten to its end.
    Whole,
    /// A dense run that may begin and end inside a word.
    Ragged,
    /// Elements apart.
    Scattered,
}

/// What a kernel does with an operand, and so which functions it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    /// `load_NAME(element)`.
    Load,
    /// `load_four_NAME(element)`, of four elements of a type of two or four bytes, from a multiple of four on.
    LoadFour,
    /// None: the kernel reads vectors of eight two-byte elements.
    Vectors,
    /// `store_four_NAME(element, value)`, of four elements of a type of two or four bytes, to a multiple of four on.
    StoreFour,
    /// `store_NAME(element, value)`, at any place.
    Store,
    /// `units_NAME` and `put_NAME`, which call the kernel's `locate` and `element`.
    Put(Store),
    /// None: the kernel writes whole words.
    Words,
    /// None: the kernel changes words atomically.
    Atomic,
}

/// A kernel's text under construction.
#[derive(Clone, Debug)]
pub(crate) struct Shader {
    vars: Vars,
    operands: String,
    bindings: u32,
    half: bool,
    cooperative: bool,
    body: &'static str,
    params: &'static str,
}

impl Shader {
    /// `params` declares `struct Params` and `p`; `body` holds the entry point.
    pub(crate) fn new(params: &'static str, body: &'static str) -> Self {
        Self {
            vars: Vars::default(),
            operands: String::new(),
            bindings: 0,
            half: false,
            cooperative: false,
            body,
            params,
        }
    }

    /// Gives a marker its value.
    pub(crate) fn set(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.vars.set(name, value);
        self
    }

    /// Allows matrices that a subgroup holds together.
    pub(crate) fn cooperative(mut self) -> Self {
        self.cooperative = true;
        self
    }

    /// Allows 16-bit arithmetic, where no operand does.
    pub(crate) fn half(mut self) -> Self {
        self.half = true;
        self
    }

    /// Sets `C`, the type that the kernel computes in.
    pub(crate) fn compute(self, native: Native) -> Self {
        self.set("C", native.name())
    }

    /// Adds the next binding, with the functions that access it: `load_NAME`, or `put_NAME` and `store_NAME`.
    pub(crate) fn operand(mut self, name: &str, dtype: DType, access: Access) -> Self {
        let wide = dtype.is_wide();
        let element = match access {
            // Also for 64-bit elements, as two words.
            Access::Atomic | Access::Put(Store::Ragged | Store::Scattered) => "atomic<u32>",
            Access::Store if !wide => "atomic<u32>",
            Access::LoadFour | Access::StoreFour if wide && dtype.native() == Native::I32 => "vec4<i32>",
            Access::LoadFour | Access::StoreFour if wide => "vec4<f32>",
            Access::LoadFour | Access::StoreFour => "vec2<u32>",
            Access::Vectors => "vec4<u32>",
            _ if wide => dtype.native().name(),
            _ => "u32",
        };
        let mode = if matches!(access, Access::Load | Access::LoadFour | Access::Vectors) {
            "read"
        } else {
            "read_write"
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.operands,
            "@group(0) @binding({}) var<storage, {mode}> {name}: array<{element}>;",
            self.bindings
        );
        const STORE_SCATTERED: &str = include_str!("../wgsl/operand/store_scattered.wgsl");
        let snippets: &[&str] = match access {
            Access::Load if wide => &[include_str!("../wgsl/operand/load_wide.wgsl")],
            Access::Load => &[include_str!("../wgsl/operand/load_lane.wgsl")],
            Access::LoadFour if wide => &[include_str!("../wgsl/operand/load_four_f32.wgsl")],
            Access::LoadFour => &[include_str!("../wgsl/operand/load_four_16.wgsl")],
            Access::StoreFour if wide => &[include_str!("../wgsl/operand/store_four_f32.wgsl")],
            Access::StoreFour => &[include_str!("../wgsl/operand/store_four_16.wgsl")],
            Access::Store if wide => &[include_str!("../wgsl/operand/store_wide.wgsl")],
            Access::Store => &[STORE_SCATTERED],
            Access::Put(Store::Wide) => &[include_str!("../wgsl/operand/put_wide.wgsl")],
            Access::Put(Store::Whole) => &[include_str!("../wgsl/operand/put_whole.wgsl")],
            Access::Put(Store::Ragged) => &[include_str!("../wgsl/operand/put_ragged.wgsl")],
            Access::Put(Store::Scattered) => {
                &[STORE_SCATTERED, include_str!("../wgsl/operand/put_scattered.wgsl")]
            }
            Access::Words | Access::Atomic | Access::Vectors => &[],
        };
        let mut vars = Vars::default();
        vars.set("NAME", name.to_owned());
        vars.set("DTYPE", dtype.name());
        vars.set("NATIVE", dtype.native().name());
        vars.set("LANES", dtype.lanes().to_string());
        vars.set("BITS", (dtype.size() * 8).min(32).to_string());
        for snippet in snippets {
            self.operands.push_str(&vars.apply(snippet));
        }
        self.bindings += 1;
        self.half |= dtype == DType::F16;
        self
    }

    /// The finished WGSL.
    pub(crate) fn finish(self) -> String {
        let half = if self.half { "enable f16;\nenable wgpu_int16;\n" } else { "" };
        // Their type is named in the text also where the translator puts another in its place.
        let cooperative = match (self.cooperative, self.half) {
            (true, true) => "enable wgpu_cooperative_matrix;\n",
            (true, false) => "enable f16;\nenable wgpu_cooperative_matrix;\n",
            _ => "",
        };
        let text = format!("{half}{cooperative}{}{}{}", self.params, self.operands, self.body);
        let code: String = text
            .lines()
            .map(library::code)
            .filter(|line| !line.is_empty())
            .fold(String::with_capacity(text.len()), |code, line| code + line + "\n");
        library::link(&code, &self.vars)
    }
}
