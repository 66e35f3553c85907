//! The images of the nodes, and their copies in the object store.

use std::collections::BTreeMap;

use isorun_blobs::TreeId;

use super::{super::StoreError, Postgres, column, params, parsed};

/// The time in which an unused copy of an image is kept, in seconds: its node records first the
/// copy, and then the checkpoint that needs it.
const UNUSED_COPY_SECS: f64 = 3600.0;

impl Postgres {
    /// Replaces the list of this node's images: digests by reference.
    pub async fn set_node_images(
        &self,
        images: &BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        let (references, digests): (Vec<String>, Vec<String>) = images.clone().into_iter().unzip();
        self.changes(
            "gone AS (
                 DELETE FROM node_images USING fence
                 WHERE node = fence.id AND reference <> ALL ($3)
             ), change AS (
                 INSERT INTO node_images (node, reference, digest)
                 SELECT fence.id, reference, digest FROM fence,
                     unnest($3::TEXT[], $4::TEXT[]) AS listed (reference, digest)
                 ON CONFLICT (node, reference) DO UPDATE SET digest = excluded.digest,
                     listed_at = now() WHERE node_images.digest <> excluded.digest
                 RETURNING 0::BIGINT AS result
             )",
            params![references, digests],
        )
        .await
        .map(drop)
    }

    /// Returns the nodes that have an image under this reference.
    pub async fn nodes_with_image(&self, reference: &str) -> Result<Vec<String>, StoreError> {
        let rows = self
            .query(
                "SELECT node FROM node_images WHERE reference = $1",
                params![reference.to_owned()],
            )
            .await?;
        rows.iter().map(|row| column(row, "node")).collect()
    }

    /// Returns the digests of this node's images that have no copy in the object store.
    pub async fn images_without_copy(&self) -> Result<Vec<String>, StoreError> {
        let (node, _) = self.node()?;
        let rows = self
            .query(
                "SELECT DISTINCT digest FROM node_images WHERE node = $1
                 AND NOT EXISTS (SELECT FROM image_copies AS copy WHERE copy.digest = node_images.digest)",
                params![node],
            )
            .await?;
        rows.iter().map(|row| column(row, "digest")).collect()
    }

    /// Returns the copy of an image in the object store.
    pub async fn image_copy(&self, digest: &str) -> Result<Option<TreeId>, StoreError> {
        self.tree("SELECT tree FROM image_copies WHERE digest = $1", digest).await
    }

    /// Returns the digest of the image that a node has under this reference, and its copy in the
    /// object store. If nodes have different ones, it is that which was added last.
    pub async fn named_image_copy(
        &self,
        reference: &str,
    ) -> Result<Option<(String, TreeId)>, StoreError> {
        let found = self
            .query_opt(
                "SELECT digest, tree FROM node_images JOIN image_copies USING (digest)
                 WHERE reference = $1 ORDER BY listed_at DESC, node LIMIT 1",
                params![reference.to_owned()],
            )
            .await?;
        let Some(row) = found else { return Ok(None) };
        Ok(Some((column(&row, "digest")?, parsed(&row, "tree", |text| text.parse().ok())?)))
    }

    /// Deletes the copies of images that no node, run or snapshot needs. Their trees are garbage
    /// then.
    pub async fn delete_unused_image_copies(&self) -> Result<(), StoreError> {
        self.query(
            "DELETE FROM image_copies AS copy
             WHERE copied_at < now() - make_interval(secs => $1)
             AND NOT EXISTS (SELECT FROM node_images WHERE digest = copy.digest)
             AND NOT EXISTS (
                 SELECT FROM runs WHERE digest = copy.digest AND destroyed_at IS NULL
             )
             AND NOT EXISTS (SELECT FROM snapshots WHERE digest = copy.digest)",
            params![UNUSED_COPY_SECS],
        )
        .await
        .map(drop)
    }
}
