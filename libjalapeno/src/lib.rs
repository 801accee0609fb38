//! Userspace driver library for the Jalapeño LLM inference accelerator.
