//! The reference device: a Jalapeño card in software, behind vfio-user.
