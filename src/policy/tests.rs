//! The evaluator as a whole.
