//! The images that other nodes of the cluster have, which are taken from its object store.

use isorun_blobs::{Blobs, Error as BlobError, TreeId};
use isorun_image::{Image, Limits, Reference, Store as LocalImages};

use super::error::Error;
use crate::store::Postgres;

/// The images of a cluster.
pub struct SharedImages {
    pub database: Postgres,
    pub blobs: Blobs,
}

/// Which image is needed.
#[derive(Clone, Copy, Debug)]
pub enum WantedImage<'a> {
    /// The one that another node has under this reference.
    Named(&'a Reference),
    /// The one with this digest, to be added under the reference.
    Exactly(&'a Reference, &'a str),
}

impl WantedImage<'_> {
    pub fn reference(&self) -> &Reference {
        match self {
            Self::Named(reference) | Self::Exactly(reference, _) => reference,
        }
    }
}

impl SharedImages {
    /// Adds an image to this node's, if it is in the object store.
    pub async fn fetch(
        &self,
        local: &LocalImages,
        wanted: WantedImage<'_>,
    ) -> Result<Option<Image>, Error> {
        let copy = match wanted {
            WantedImage::Named(reference) => {
                self.database.named_image_copy(&reference.to_string()).await?
            }
            WantedImage::Exactly(_, digest) => {
                let tree = self.database.image_copy(digest).await?;
                tree.map(|tree| (digest.to_owned(), tree))
            }
        };
        match copy {
            Some((digest, tree)) => self.add(local, wanted.reference(), &digest, tree).await,
            None => Ok(None),
        }
    }

    async fn add(
        &self,
        local: &LocalImages,
        reference: &Reference,
        digest: &str,
        tree: TreeId,
    ) -> Result<Option<Image>, Error> {
        tracing::info!(image = %reference, digest, "copying from the object store");
        let files = match self.blobs.cached(tree).await {
            Ok(files) => files,
            // It was collected since the database was asked.
            Err(BlobError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(Error::object_store("image", error)),
        };
        let limits = Limits::default();
        match local.add_files(files.path(), digest, reference, &limits).await {
            Ok(image) => Ok(Some(image)),
            // Of another platform, say: the registry may have one for this.
            Err(error @ isorun_image::Error::Unsupported { .. }) => {
                tracing::debug!(%error, image = %reference, "cannot use the image of another node");
                Ok(None)
            }
            Err(error @ isorun_image::Error::Digest { .. }) => {
                Err(Error::internal("the image in the object store is damaged", error))
            }
            Err(error) => Err(Error::image(error)),
        }
    }
}
