"""Management commands of the comparison project, for those who want to try it by hand (`runserver`)."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "stock_site.settings")
    execute_from_command_line(sys.argv)
