"""Images: their formats, their readers, their random changes, and the batches cut from them."""
