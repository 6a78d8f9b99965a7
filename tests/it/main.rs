//! The one integration binary.

mod clients;
