fn sort_key(x: $C) -> $K {
    return $ORDERED;
}
