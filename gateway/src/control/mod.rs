//! The policy's way: desired state → compared with the observed → plan → apply. Everything up to
//! the plan is a value and computed without side effects; only [`apply`] changes anything.
pub mod apply;
pub mod desired;
pub mod follow;
pub mod lock;
pub mod mss;
pub mod observed;
pub mod plan;
pub mod status;
#[cfg(test)]
mod tests;
