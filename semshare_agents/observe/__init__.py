"""What a turn tells about itself."""
