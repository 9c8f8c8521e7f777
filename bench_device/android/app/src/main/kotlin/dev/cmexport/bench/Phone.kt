package dev.cmexport.bench

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.Debug
import android.os.PowerManager
import android.provider.Settings

/** What a phone tells an app about itself. */
class Phone(private val context: Context) {
    private val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager

    /** The `device` field of a `meta` line. */
    fun describe(): Map<String, Any?> = mapOf(
        "model" to "${Build.MANUFACTURER} ${Build.MODEL}",
        "processor" to chip(),
        "cores" to Runtime.getRuntime().availableProcessors(),
        "memory_bytes" to memory(),
        "os" to "Android ${Build.VERSION.RELEASE} ${Build.SUPPORTED_ABIS.firstOrNull().orEmpty()}".trim(),
        "accelerator" to null,
        "features" to emptyList<String>(),
        "power" to mapOf(
            "charger" to charger(),
            "battery_percent" to percent(),
            "low_power_mode" to power.isPowerSaveMode,
            "power_mode" to null,
            "airplane_mode" to
                (Settings.Global.getInt(context.contentResolver, Settings.Global.AIRPLANE_MODE_ON, 0) != 0),
            "screen_on" to power.isInteractive,
        ),
        "facts" to mapOf("build" to Build.FINGERPRINT, "sdk" to Build.VERSION.SDK_INT),
    )

    /** Reasons for what [describe] leaves null. */
    fun why(): Map<String, String> = mapOf(
        "accelerator" to "not told",
        "power_mode" to "Android has none but the battery saver",
        "processor" to "before Android 12 the chip is not told",
        "charger" to "not told",
        "battery_percent" to "not told",
    )

    /** Android's word for the heat; null before Android 10. */
    fun thermalStatus(): String? =
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) null else STATUS.getOrNull(power.currentThermalStatus)

    /** Megabytes of this process: proportional set size. */
    fun pssMb(): Double = Debug.MemoryInfo().also { Debug.getMemoryInfo(it) }.totalPss * 1024 / 1e6

    private fun chip(): String? =
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.S) null else "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}"

    private fun memory(): Long {
        val info = ActivityManager.MemoryInfo()
        (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(info)
        return info.totalMem
    }

    private fun battery(): Intent? = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))

    private fun charger(): String? = when (battery()?.getIntExtra(BatteryManager.EXTRA_PLUGGED, -1)) {
        0 -> "none"
        BatteryManager.BATTERY_PLUGGED_AC -> "ac"
        BatteryManager.BATTERY_PLUGGED_USB -> "usb"
        BatteryManager.BATTERY_PLUGGED_WIRELESS -> "wireless"
        else -> null
    }

    private fun percent(): Double? {
        val level = battery()?.getIntExtra(BatteryManager.EXTRA_LEVEL, -1) ?: -1
        val scale = battery()?.getIntExtra(BatteryManager.EXTRA_SCALE, -1) ?: -1
        return if (level < 0 || scale <= 0) null else 100.0 * level / scale
    }

    private companion object {
        val STATUS = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
    }
}
