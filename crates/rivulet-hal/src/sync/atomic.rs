//! Atomic integers, flags, pointers and fences.
//!
//! The standard side wraps each type, because a lint on the standard types would see through a re-export. The
//! methods are the standard library's, with the same meaning.

#[cfg(loom)]
pub use loom::sync::atomic::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(not(loom))]
pub use standard::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(not(loom))]
#[allow(clippy::disallowed_types, reason = "this is the shim the rest of the workspace uses")]
mod standard {
    use std::sync::atomic as raw;
    pub use std::sync::atomic::{Ordering, fence};

    macro_rules! forward {
        ($name:ident [$($generic:ident)?], $inner:ty, $value:ty;
         $($method:ident($($operand:ident),*);)*) => {
            #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "`].")]
            #[repr(transparent)]
            pub struct $name $(<$generic>)? ($inner);

            impl $(<$generic>)? $name $(<$generic>)? {
                #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "::new`].")]
                #[inline]
                pub const fn new(value: $value) -> Self {
                    Self(<$inner>::new(value))
                }

                #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "::into_inner`].")]
                #[inline]
                pub fn into_inner(self) -> $value {
                    self.0.into_inner()
                }

                #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "::get_mut`].")]
                #[inline]
                pub fn get_mut(&mut self) -> &mut $value {
                    self.0.get_mut()
                }

                #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "::load`].")]
                #[inline]
                pub fn load(&self, order: Ordering) -> $value {
                    self.0.load(order)
                }

                #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "::store`].")]
                #[inline]
                pub fn store(&self, value: $value, order: Ordering) {
                    self.0.store(value, order);
                }

                #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "::compare_exchange`].")]
                #[inline]
                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.0.compare_exchange(current, new, success, failure)
                }

                #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "::compare_exchange_weak`].")]
                #[inline]
                pub fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.0.compare_exchange_weak(current, new, success, failure)
                }

                #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "::fetch_update`].")]
                #[inline]
                pub fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    update: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    self.0.fetch_update(set, fetch, update)
                }

                $(
                    #[doc = concat!("As [`std::sync::atomic::", stringify!($name), "::", stringify!($method), "`].")]
                    #[inline]
                    pub fn $method(&self, $($operand: $value,)* order: Ordering) -> $value {
                        self.0.$method($($operand,)* order)
                    }
                )*
            }

            impl $(<$generic>)? std::fmt::Debug for $name $(<$generic>)? {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    self.0.fmt(f)
                }
            }
        };
    }

    macro_rules! forward_integers {
        ($($name:ident $value:ty),+) => {$(
            forward! { $name [], raw::$name, $value;
                swap(value);
                fetch_add(value);
                fetch_sub(value);
                fetch_and(value);
                fetch_or(value);
                fetch_xor(value);
                fetch_max(value);
                fetch_min(value);
            }

            impl Default for $name {
                fn default() -> Self {
                    Self::new(0)
                }
            }
        )+};
    }

    forward_integers!(AtomicU8 u8, AtomicU32 u32, AtomicU64 u64, AtomicUsize usize, AtomicI64 i64);

    forward! { AtomicBool [], raw::AtomicBool, bool;
        swap(value);
        fetch_and(value);
        fetch_or(value);
        fetch_xor(value);
    }

    impl Default for AtomicBool {
        fn default() -> Self {
            Self::new(false)
        }
    }

    forward! { AtomicPtr [T], raw::AtomicPtr<T>, *mut T;
        swap(value);
    }
}
