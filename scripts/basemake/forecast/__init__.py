"""What a run will take: bytes, seconds, memory and cost, in numbers, words and a map."""
