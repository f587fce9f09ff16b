//! The pointwise ops: one row each. The WGSL function of an op is its label with `f_` (floats) or `i_` (integers,
//! with `$C` for the type) before it.

use crate::dtype::DType;
use crate::library;

/// Element types that an op computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Domain {
    Float,
    Int,
    Both,
}
use Domain::{Both, Float, Int};

/// What an op yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Yields {
    /// A value of the type computed in.
    Value,
    /// True or false.
    Truth,
}
use Yields::{Truth, Value};

macro_rules! ops {
    ($($variant:ident $label:literal $arity:literal $indexed:literal $domain:ident $yields:ident;)*) => {
        /// What a pointwise kernel does with its elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Op {
            $(#[doc = concat!("`", $label, "`")] $variant,)*
        }

        impl Op {
            /// Every op.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The op's one name, in WGSL, in labels and in tests.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// Number of inputs.
            pub const fn arity(self) -> usize {
                match self { $(Self::$variant => $arity,)* }
            }

            /// True where the result depends on the element's position in the output (row-major, so that the
            /// iteration order may not be changed).
            pub const fn is_indexed(self) -> bool {
                match self { $(Self::$variant => $indexed,)* }
            }

            const fn domain(self) -> Domain {
                match self { $(Self::$variant => $domain,)* }
            }

            const fn yields(self) -> Yields {
                match self { $(Self::$variant => $yields,)* }
            }
        }
    };
}

ops! {
    // variant, label, inputs, indexed, domain, yields
    Fill "fill" 0 true Both Value;
    Arange "arange" 0 true Both Value;
    Linspace "linspace" 0 true Float Value;
    Eye "eye" 0 true Both Value;
    Uniform "uniform" 0 true Float Value;
    Normal "normal" 0 true Float Value;
    Bernoulli "bernoulli" 0 true Both Value;
    Exponential "exponential" 0 true Float Value;
    Randint "randint" 0 true Both Value;

    Copy "copy" 1 false Both Value;
    Neg "neg" 1 false Both Value;
    Abs "abs" 1 false Both Value;
    Sign "sign" 1 false Both Value;
    Square "square" 1 false Both Value;
    Sqrt "sqrt" 1 false Float Value;
    Rsqrt "rsqrt" 1 false Float Value;
    Reciprocal "reciprocal" 1 false Float Value;
    Exp "exp" 1 false Float Value;
    Exp2 "exp2" 1 false Float Value;
    Expm1 "expm1" 1 false Float Value;
    Log "log" 1 false Float Value;
    Log2 "log2" 1 false Float Value;
    Log10 "log10" 1 false Float Value;
    Log1p "log1p" 1 false Float Value;
    Sin "sin" 1 false Float Value;
    Cos "cos" 1 false Float Value;
    Tan "tan" 1 false Float Value;
    Asin "asin" 1 false Float Value;
    Acos "acos" 1 false Float Value;
    Atan "atan" 1 false Float Value;
    Sinh "sinh" 1 false Float Value;
    Cosh "cosh" 1 false Float Value;
    Tanh "tanh" 1 false Float Value;
    Asinh "asinh" 1 false Float Value;
    Acosh "acosh" 1 false Float Value;
    Atanh "atanh" 1 false Float Value;
    Erf "erf" 1 false Float Value;
    Erfc "erfc" 1 false Float Value;
    Floor "floor" 1 false Both Value;
    Ceil "ceil" 1 false Both Value;
    Round "round" 1 false Both Value;
    Trunc "trunc" 1 false Both Value;
    Frac "frac" 1 false Float Value;
    LogicalNot "logical_not" 1 false Both Truth;
    BitwiseNot "bitwise_not" 1 false Int Value;
    IsNan "isnan" 1 false Both Truth;
    IsInf "isinf" 1 false Both Truth;
    IsPosInf "isposinf" 1 false Both Truth;
    IsNegInf "isneginf" 1 false Both Truth;
    IsFinite "isfinite" 1 false Both Truth;
    Signbit "signbit" 1 false Both Truth;
    Clamp "clamp" 1 false Both Value;
    Logit "logit" 1 false Float Value;
    NanToNum "nan_to_num" 1 false Float Value;
    Deg2Rad "deg2rad" 1 false Float Value;
    Rad2Deg "rad2deg" 1 false Float Value;
    Relu "relu" 1 false Both Value;
    Relu6 "relu6" 1 false Float Value;
    Gelu "gelu" 1 false Float Value;
    GeluTanh "gelu_tanh" 1 false Float Value;
    Sigmoid "sigmoid" 1 false Float Value;
    LogSigmoid "log_sigmoid" 1 false Float Value;
    Silu "silu" 1 false Float Value;
    Softplus "softplus" 1 false Float Value;
    Mish "mish" 1 false Float Value;
    Hardswish "hardswish" 1 false Float Value;
    Hardsigmoid "hardsigmoid" 1 false Float Value;
    Hardtanh "hardtanh" 1 false Float Value;
    LeakyRelu "leaky_relu" 1 false Float Value;
    Elu "elu" 1 false Float Value;
    Threshold "threshold" 1 false Float Value;
    Hardshrink "hardshrink" 1 false Float Value;
    Softshrink "softshrink" 1 false Float Value;
    Softsign "softsign" 1 false Float Value;
    Selu "selu" 1 false Float Value;
    Erfinv "erfinv" 1 false Float Value;
    Erfcx "erfcx" 1 false Float Value;
    LogNdtr "log_ndtr" 1 false Float Value;
    Ndtri "ndtri" 1 false Float Value;
    Entr "entr" 1 false Float Value;
    Lgamma "lgamma" 1 false Float Value;
    Digamma "digamma" 1 false Float Value;
    Polygamma "polygamma" 1 false Float Value;
    I0 "i0" 1 false Float Value;
    I0e "i0e" 1 false Float Value;
    I1 "i1" 1 false Float Value;
    I1e "i1e" 1 false Float Value;
    Sinc "sinc" 1 false Float Value;
    RoundDecimals "round_decimals" 1 false Float Value;
    LogitEps "logit_eps" 1 false Float Value;
    Tril "tril" 1 true Both Value;
    Triu "triu" 1 true Both Value;
    Dropout "dropout" 1 true Float Value;

    Add "add" 2 false Both Value;
    Sub "sub" 2 false Both Value;
    AddAlpha "add_alpha" 2 false Both Value;
    Mul "mul" 2 false Both Value;
    Div "div" 2 false Float Value;
    DivFloor "div_floor" 2 false Both Value;
    DivTrunc "div_trunc" 2 false Both Value;
    DivTruncRounded "div_trunc_rounded" 2 false Float Value;
    Remainder "remainder" 2 false Both Value;
    Fmod "fmod" 2 false Both Value;
    Pow "pow" 2 false Both Value;
    Maximum "maximum" 2 false Both Value;
    Minimum "minimum" 2 false Both Value;
    Fmax "fmax" 2 false Both Value;
    Fmin "fmin" 2 false Both Value;
    Atan2 "atan2" 2 false Float Value;
    Copysign "copysign" 2 false Float Value;
    Hypot "hypot" 2 false Float Value;
    Eq "eq" 2 false Both Truth;
    Ne "ne" 2 false Both Truth;
    Lt "lt" 2 false Both Truth;
    Le "le" 2 false Both Truth;
    Gt "gt" 2 false Both Truth;
    Ge "ge" 2 false Both Truth;
    LogicalAnd "logical_and" 2 false Both Truth;
    LogicalOr "logical_or" 2 false Both Truth;
    LogicalXor "logical_xor" 2 false Both Truth;
    BitwiseAnd "bitwise_and" 2 false Int Value;
    BitwiseOr "bitwise_or" 2 false Int Value;
    BitwiseXor "bitwise_xor" 2 false Int Value;
    ShiftLeft "shift_left" 2 false Int Value;
    ShiftRight "shift_right" 2 false Int Value;
    Gcd "gcd" 2 false Int Value;
    JoinIndex "join_index" 2 false Int Value;
    LerpScalar "lerp_scalar" 2 false Float Value;
    MaskedFill "masked_fill" 2 false Both Value;
    Xlogy "xlogy" 2 false Float Value;
    Logaddexp "logaddexp" 2 false Float Value;
    Prelu "prelu" 2 false Float Value;
    Heaviside "heaviside" 2 false Both Value;
    Xlog1py "xlog1py" 2 false Float Value;
    Logaddexp2 "logaddexp2" 2 false Float Value;
    Nextafter "nextafter" 2 false Float Value;
    Ldexp "ldexp" 2 false Float Value;
    Zeta "zeta" 2 false Float Value;
    Igamma "igamma" 2 false Float Value;
    Igammac "igammac" 2 false Float Value;
    Lcm "lcm" 2 false Int Value;
    Glu "glu" 2 false Float Value;
    Huber "huber" 2 false Float Value;
    Mse "mse" 2 false Float Value;
    SmoothL1 "smooth_l1" 2 false Float Value;
    ReluBackward "relu_backward" 2 false Float Value;
    ThresholdBackward "threshold_backward" 2 false Float Value;
    SigmoidBackward "sigmoid_backward" 2 false Float Value;
    TanhBackward "tanh_backward" 2 false Float Value;
    SiluBackward "silu_backward" 2 false Float Value;
    GeluBackward "gelu_backward" 2 false Float Value;
    GeluTanhBackward "gelu_tanh_backward" 2 false Float Value;
    LeakyReluBackward "leaky_relu_backward" 2 false Float Value;
    HardtanhBackward "hardtanh_backward" 2 false Float Value;
    HardswishBackward "hardswish_backward" 2 false Float Value;
    HardsigmoidBackward "hardsigmoid_backward" 2 false Float Value;
    MishBackward "mish_backward" 2 false Float Value;
    SoftplusBackward "softplus_backward" 2 false Float Value;
    EluBackward "elu_backward" 2 false Float Value;
    EluBackwardResult "elu_backward_result" 2 false Float Value;
    ShrinkBackward "shrink_backward" 2 false Float Value;
    LogitBackward "logit_backward" 2 false Float Value;
    LogSigmoidBackward "log_sigmoid_backward" 2 false Float Value;
    PreluWeightBackward "prelu_weight_backward" 2 false Float Value;

    Where "where" 3 false Both Value;
    Addcmul "addcmul" 3 false Both Value;
    Addcdiv "addcdiv" 3 false Float Value;
    Lerp "lerp" 3 false Float Value;
    ClampTensors "clamp_tensors" 3 false Both Value;
    Addr "addr" 3 false Float Value;
    PreluBackward "prelu_backward" 3 false Float Value;
    GluBackward "glu_backward" 3 false Float Value;
    MseBackward "mse_backward" 3 false Float Value;
    SmoothL1Backward "smooth_l1_backward" 3 false Float Value;
    HuberBackward "huber_backward" 3 false Float Value;
}

impl Op {
    /// True where the op is defined for elements that are computed as `common`.
    pub const fn computes(self, common: DType) -> bool {
        match self.domain() {
            Float => common.is_float(),
            Int => !common.is_float(),
            Both => true,
        }
    }

    /// True where the first two scalars are the seed of random numbers, low word first.
    pub const fn is_random(self) -> bool {
        matches!(
            self,
            Self::Uniform
                | Self::Normal
                | Self::Bernoulli
                | Self::Exponential
                | Self::Randint
                | Self::Dropout
        )
    }

    /// True where the result is true or false, whatever the inputs are.
    pub const fn is_predicate(self) -> bool {
        matches!(self.yields(), Truth)
    }

    /// True where the op's function for elements that are computed as `common` reads scalars or other parameters, or is
    /// another one for each kernel.
    pub fn reads_params(self, common: DType) -> bool {
        library::reads_params(&self.function(common), common.native().name())
    }

    /// Name of the WGSL function for elements that are computed as `common`.
    pub(crate) fn function(self, common: DType) -> String {
        // ~1 is not 0: among bools the complement is the negation, and only its result is reduced to one bit.
        let op = if self == Self::BitwiseNot && common == DType::Bool { Self::LogicalNot } else { self };
        let prefix = if common.is_float() { "f" } else { "i" };
        format!("{prefix}_{}", op.label())
    }

    /// True where [`Op::function`] returns a WGSL `bool`.
    pub(crate) fn function_is_predicate(self, common: DType) -> bool {
        self.is_predicate() || (self == Self::BitwiseNot && common == DType::Bool)
    }
}
