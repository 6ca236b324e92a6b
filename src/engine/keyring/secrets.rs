//! What an organisation has others keep secret, such as what it shows to its identity provider: sealed with its data
//! key, and gone with that.

use aws_lc_rs::aead::LessSafeKey;
use aws_lc_rs::hmac;
use oriel_kernel::OrganizationId;
use zeroize::Zeroizing;

use super::{KeyError, Keyring, aes, open};

impl Keyring {
    /// Seals a secret of an organisation, for this purpose alone; makes the organisation's data key if it is missing.
    ///
    /// # Errors
    /// When the key was destroyed, or the database is not there.
    pub async fn seal_secret(
        &self,
        organization: OrganizationId,
        purpose: &str,
        secret: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        let key = self.secrets_key(organization, true).await?.ok_or(KeyError::Destroyed(organization.uuid()))?;
        self.encrypt(&key, secret, purpose.as_bytes())
    }

    /// Opens a secret of an organisation. Nothing when it is none, was sealed for another purpose or by another
    /// organisation, or the key was destroyed.
    ///
    /// # Errors
    /// When the database is not there.
    pub async fn open_secret_of(
        &self,
        organization: OrganizationId,
        purpose: &str,
        sealed: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, KeyError> {
        let key = self.secrets_key(organization, false).await?;
        Ok(key.and_then(|key| open(&key, sealed, purpose.as_bytes())))
    }

    /// Another key than those that follow from the same one for persons.
    async fn secrets_key(&self, organization: OrganizationId, make: bool) -> Result<Option<LessSafeKey>, KeyError> {
        let id = organization.uuid();
        let keys = self.keys([id].into(), make).await?;
        let Some(Some(key)) = keys.get(&id) else { return Ok(None) };
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()), b"secrets of the organization");
        aes(derived.as_ref()).map(Some)
    }
}
