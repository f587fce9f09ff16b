    shape: vec4<u32>,
    strides: array<vec4<u32>, 4>,
