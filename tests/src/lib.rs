//! What the stories share: a board started for one test, and the library opened on it.
