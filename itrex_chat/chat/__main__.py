"""`python -m itrex_chat.chat`: the verb of that name, which is in `itrex_chat/talk.py`, for this room has the name."""

import sys

from itrex_chat.talk import main

if __name__ == "__main__":
    sys.exit(main())
