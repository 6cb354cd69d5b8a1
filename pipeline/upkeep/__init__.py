"""What keeps an archive right for years: whether it is whole, and whose its pictures are."""
