// Nothing of it is used beyond what metal_stdlib has.
