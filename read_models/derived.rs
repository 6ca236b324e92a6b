//! Ids of rows that no command named.

use aws_lc_rs::digest::{SHA256, digest};
use uuid::{Builder, Uuid};

/// The id of the row that belongs to both: the beginning of SHA-256 over the two ids, as a UUID of version 8. The same
/// in growing and replaying.
pub(crate) fn pair(one: Uuid, other: Uuid) -> Uuid {
    let mut both = [0; 32];
    both[..16].copy_from_slice(one.as_bytes());
    both[16..].copy_from_slice(other.as_bytes());
    let mut beginning = [0; 16];
    beginning.copy_from_slice(&digest(&SHA256, &both).as_ref()[..16]);
    Builder::from_custom_bytes(beginning).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_for_ever_and_another_the_other_way_round() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(pair(one, other).to_string(), "78d68721-debb-823c-b880-232869a63e25");
        assert_ne!(pair(one, other), pair(other, one));
        assert_ne!(pair(one, other), pair(one, one));
    }
}
