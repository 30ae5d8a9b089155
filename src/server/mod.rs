//! To come.

pub mod api;
pub mod browser;
pub mod error;
pub mod render;
