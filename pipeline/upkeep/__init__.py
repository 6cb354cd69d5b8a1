"""What keeps an archive true to its sources, and to the people whose photos it holds, for years."""
